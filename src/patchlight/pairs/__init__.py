"""Questions the model can be asked: clean and corrupted prompts, aligned token by token, screened."""
