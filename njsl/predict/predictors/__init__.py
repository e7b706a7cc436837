"""Plug-ins: one predictor per file, found through ``conf/predictor/<stem>.yaml`` and never imported by name."""
