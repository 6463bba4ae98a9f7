"""What nerfstudio trains: fields, models, data managers, losses."""
