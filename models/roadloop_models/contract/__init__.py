"""The contract between vehicle and cloud: channels, messages, and how they are encoded."""
