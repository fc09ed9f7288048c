"""Training and testing: MMEngine's runner, with what makes it exact, safe and watchable."""
