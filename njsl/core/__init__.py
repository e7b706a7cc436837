"""What every verb needs: configuration and its check, run folders, loggers, shared types and errors."""
