"""Imports what a large program would, and says so: the workload of the end-to-end tests."""
import hashlib
import importlib
import os
import sys

MODULES = """
abc argparse array ast asyncio base64 binascii bisect bz2 calendar cmath cmd code codecs collections
colorsys concurrent.futures configparser contextlib copy csv ctypes dataclasses datetime decimal
difflib dis email.message email.parser enum fileinput fnmatch fractions ftplib functools gettext glob
graphlib gzip hashlib heapq hmac html.parser http.client http.cookies http.server imaplib inspect io
ipaddress itertools json keyword linecache locale logging logging.handlers lzma mailbox mimetypes
multiprocessing numbers operator optparse pathlib pickle pkgutil platform plistlib pprint profile
queue random re sched secrets selectors shelve shlex shutil smtplib socket socketserver sqlite3 ssl
statistics string subprocess tarfile tempfile textwrap threading timeit tokenize traceback types
typing unittest urllib.request uuid wave xml.etree.ElementTree zipfile zlib
""".split()

for name in MODULES:
    importlib.import_module(name)

# Every further argument is a file to read whole.
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        print(f"{hashlib.sha256(file.read()).hexdigest()}  {path}")

print(f"bolide-e2e: {len(MODULES)} modules, python {sys.version.split()[0]}, uid {os.getuid()}")
