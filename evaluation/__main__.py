"""`python -m evaluation`: how well a checkpoint does on what it was not trained on, as a Markdown table."""

from evaluation.command import main

if __name__ == "__main__":
    main()
