"""What the commands share: their options and their reports."""
