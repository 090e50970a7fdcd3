"""`python -m training`: train the small checkpoint."""

from training.command import main

if __name__ == "__main__":
    main()
