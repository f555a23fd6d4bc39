"""The limit of open files, told apart from damaged files: ArrayRecord keeps every file open."""


def check_open_files(error: Exception) -> None:
    """Raises OSError if an error of ArrayRecord is that no more files may be opened.

    It raises RuntimeErrors for everything; only their text tells them apart.
    """
    if "Too many open files" in str(error):  # Of one process, or "in system".
        raise OSError(
            f"{error}: the limit of open files is reached, the files are not damaged. Every file "
            "of records stays open: raise the limit (show it with `ulimit -n`, set it with, for "
            "example, `ulimit -n 65536` before this command), or use fewer workers"
        ) from error
