"""Where settings come from: arguments, the environment, the account file."""
