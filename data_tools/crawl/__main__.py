"""Crawl a site into a WARC file: trireme crawl START_URL --output FILE.warc.gz"""

import sys

from data_tools.crawl.crawler import main

if __name__ == "__main__":
    sys.exit(main())
