"""What every program here uses: files, the terminal, signals, errors."""
