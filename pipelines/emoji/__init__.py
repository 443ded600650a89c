"""The drawn objects, the scenes made of them and the captions that describe them."""
