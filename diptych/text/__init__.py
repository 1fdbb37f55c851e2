"""Words to tokens, and tokens to states."""
