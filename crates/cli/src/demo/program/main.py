"""Uses a good part of the standard library, reads the files of a list, and prints what it saw."""
import concurrent.futures
import hashlib
import importlib

MODULES = """
abc argparse array ast asyncio base64 bisect bz2 calendar collections concurrent.futures
configparser contextlib copy csv ctypes dataclasses datetime decimal difflib dis email.message
enum fnmatch fractions functools gc getopt gettext glob gzip hashlib heapq hmac html.parser
http.client inspect io ipaddress itertools json keyword linecache locale logging lzma math
mimetypes mmap numbers operator os pathlib pickle platform pprint queue random re sched secrets
select shelve shlex shutil signal socket sqlite3 ssl stat statistics string struct subprocess
tarfile tempfile textwrap threading timeit token tokenize traceback types typing unittest
urllib.request uuid warnings weakref xml.etree.ElementTree zipfile zlib
""".split()


def read(path):
    with open(path, "rb") as file:
        return file.read()


def load():
    """Imports what there is; tells how much that is."""
    imported = 0
    for name in MODULES:
        try:
            importlib.import_module(name)
            imported += 1
        except ImportError:
            pass
    return imported


def main():
    imported = load()
    digest, files, size = hashlib.sha256(), 0, 0
    with open("/app/files", encoding="utf-8") as names:
        paths = names.read().splitlines()
    with concurrent.futures.ThreadPoolExecutor(16) as readers:
        for content in readers.map(read, paths):
            digest.update(content)
            files, size = files + 1, size + len(content)
    print(f"modules={imported} files={files} bytes={size} sha256={digest.hexdigest()}")


if __name__ == "__main__":
    main()
