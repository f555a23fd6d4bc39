"""Pictures from a trained prior: its maps of codes drawn, decoded, shown and stored."""
