"""The areas of the workbench; `app.py` takes the `router` of every file here."""
