"""`python -m app.worker`: started by `app.worker.supervisor`, not by hand."""

from app.worker.process import main

if __name__ == "__main__":
    main()
