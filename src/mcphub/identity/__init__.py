"""Users, groups, API keys: values in, values out."""
