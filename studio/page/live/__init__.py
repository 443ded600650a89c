"""The tab "Live": a drawing or a camera becomes a picture, continuously."""
