"""Write the report of a preparation: trireme data-report OUTPUT_DIR"""

import sys

from data_tools.report.page import main

if __name__ == "__main__":
    sys.exit(main())
