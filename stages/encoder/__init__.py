"""The SAM encoder: networks that give an image's codes in one pass, and their training (thesis Sec. 3.3)."""
