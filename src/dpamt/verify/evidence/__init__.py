"""What a verdict leaves behind: counterexamples, replays, certificates, kept searches."""
