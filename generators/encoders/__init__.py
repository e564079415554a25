"""Published encoders of images into W+: e4e, pSp and ReStyle."""
