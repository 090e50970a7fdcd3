"""The HTTP routes; each a few lines, the work is in `app.pipeline` and `app.service`."""
