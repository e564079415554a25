"""Read pickles without running code from them: a stack machine, and the formats that embed pickles."""
