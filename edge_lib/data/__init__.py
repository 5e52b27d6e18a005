"""Tables in (`table`, `sources`, `scenes`), batches out (`batches`)."""
