"""Model files to try autobatch on: plain PyTorch on real data that needs no download."""
