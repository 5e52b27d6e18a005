"""A trained model behind a REST API and a page: `edge-glass serve`."""
