# SPDX-License-Identifier: Apache-2.0
"""The best attack there is on a few coins, by linear programming.

The variables are the probabilities of every output given every coin sequence;
the outputs are guesses of all coins. Nothing of the library is used.
"""

import itertools

import numpy as np
from scipy import optimize
from scipy import sparse


def compute_best_chance(num_coins, num_correct, *, epsilons, deltas):
    """Returns the most that P[right guesses >= num_correct] can be.

    Over all mechanisms that are (epsilons[e], deltas[e])-DP for every e, for
    neighbors that differ in one coin.
    """
    points = list(itertools.product((0, 1), repeat=num_coins))
    size = len(points)
    pairs = [
        (a, b)
        for a, b in itertools.product(range(size), repeat=2)
        if np.sum(np.not_equal(points[a], points[b])) == 1
    ]
    num_slacks = len(pairs) * len(epsilons) * size
    num_variables = size * size + num_slacks
    rows, columns, values, limits = [], [], [], []

    def add(row, entries):
        for column, value in entries:
            rows.append(row)
            columns.append(column)
            values.append(value)

    slack = size * size
    row = 0
    for (a, b), (epsilon, delta) in itertools.product(
        pairs, zip(epsilons, deltas, strict=True)
    ):
        first = slack
        for output in range(size):
            # P[output | a] - e^epsilon P[output | b] <= slack
            add(
                row,
                [
                    (a * size + output, 1.0),
                    (b * size + output, -np.exp(epsilon)),
                    (slack, -1.0),
                ],
            )
            limits.append(0.0)
            row, slack = row + 1, slack + 1
        add(row, [(s, 1.0) for s in range(first, slack)])
        limits.append(delta)
        row += 1
    upper = sparse.csr_matrix((values, (rows, columns)), (row, num_variables))
    sums = sparse.hstack(
        [
            sparse.kron(sparse.eye(size), np.ones((1, size))),
            sparse.csr_matrix((size, num_slacks)),
        ]
    )
    gains = np.zeros(num_variables)
    for a, output in itertools.product(range(size), repeat=2):
        right = np.sum(np.equal(points[a], points[output]))
        gains[a * size + output] = (right >= num_correct) / size
    solution = optimize.linprog(
        -gains, A_ub=upper, b_ub=limits, A_eq=sums, b_eq=np.ones(size)
    )
    if solution.status != 0:
        raise ValueError(solution.message)
    return -solution.fun
