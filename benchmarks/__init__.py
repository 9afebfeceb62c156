# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: run one as `python -m benchmarks.<name>`."""
