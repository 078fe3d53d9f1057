"""Sum up a folder of xunit files: counts, what failed, why tests were skipped.

python test_counts.py FOLDER       exit status 1 where a test failed or a file is missing
"""

import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path


def main(folder: Path) -> int:
    """Print the summary; its last line is `N passed, N failed, N skipped`."""
    files = sorted(folder.glob("*.xunit.xml"))
    counts: Counter[str] = Counter()
    skips: Counter[str] = Counter()
    for file in files:
        in_file: Counter[str] = Counter()
        for case in ET.parse(file).getroot().iter("testcase"):
            outcome = "passed"
            for child in case:
                if child.tag in ("failure", "error"):
                    outcome = "failed"
                    print(f"FAILED {case.get('classname')}::{case.get('name')}\n{child.text}")
                elif child.tag == "skipped":
                    outcome = "skipped"
                    skips[str(child.get("message"))] += 1
            in_file[outcome] += 1
        words = ", ".join(f"{in_file[name]} {name}" for name in ("passed", "failed", "skipped"))
        print(f"{file.name.removesuffix('.xunit.xml'):12s} {words}")
        counts += in_file
    for why, count in skips.most_common():
        print(f"  skipped {count}: {why}")
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    return 0 if files and counts["passed"] and not counts["failed"] else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
