"""A run as one HTML page: what the page shows (`view`), its plots (`figures`), and the writing of it (`page`)."""
