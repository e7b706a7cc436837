"""Plug-ins: one mixture law per file, found through ``conf/mixture_law/<stem>.yaml`` and never imported by name."""
