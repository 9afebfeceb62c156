# SPDX-License-Identifier: Apache-2.0
"""Runs pytest on the files named on the command line, for Bazel."""

import sys

import pytest

if __name__ == "__main__":
    sys.exit(pytest.main(["-n", "0", *sys.argv[1:]]))
