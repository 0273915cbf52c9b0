"""Records, readers and writers of MR raw data, and simulated acquisitions."""
