"""What every part may use: registry, parameters, configuration, files and locks, runtime, progress."""
