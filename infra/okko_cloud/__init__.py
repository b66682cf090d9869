"""From an S3 event to a better model. The local cloud, its worker and its budget live here."""
