"""Where does the answer come from: exact patching sweeps."""
