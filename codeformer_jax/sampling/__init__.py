"""Maps of codes drawn from priors, value by value, as pure functions of a key per map."""
