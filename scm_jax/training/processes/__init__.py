"""The processes of one training: how they start, meet and watch each other."""
