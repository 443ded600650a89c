"""Serving the page, the MCP server and Hugging Face Spaces."""
