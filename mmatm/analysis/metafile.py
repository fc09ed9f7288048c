"""OpenMMLab's description of configs, for `mim`."""

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from mmatm.analysis.papers import own_rows

_HEAD = '# Written by tools/reproduce_tables.py. Metrics are published figures, not measured here.\n'


def metafile(tables: Iterable[dict[str, Any]], counts: Mapping[str, dict[str, int]]) -> str:
    """The metafile of one backbone's configs.

    Args:
        tables: The backbone's, as `read_tables` gives them.
        counts: As `count_all` gives them.

    Returns:
        Its text. Metrics are published ones, and named after their source.
    """
    tables = list(tables)
    collection = tables[0]['paper']['collection']
    models = []
    for table, row, path in own_rows(tables):
        label = f'({table["source"]})'
        published = {f'{title} {label}': row[key] for key, (title, _) in table['metrics'].items() if key in row}
        counted = counts[row['config']]
        models.append({
            'Name': row['config'],
            'In Collection': collection['Name'],
            'Config': path,
            'Metadata': {
                'Parameters': counted['params'],
                'FLOPs': counted['flops'],
                'Training Data': table['dataset'],
            },
            'Results': [
                {'Task': table['task'], 'Dataset': table['dataset'], 'Metrics': published or {'not published': None}}
            ],
        })  # fmt: skip
    return _HEAD + yaml.safe_dump({'Collections': [collection], 'Models': models}, sort_keys=False)
