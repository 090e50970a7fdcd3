"""The service around the model: HTTP in front, one worker process per device behind."""
