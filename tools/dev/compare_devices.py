#!/usr/bin/env python
"""Compares every backbone on a device with itself in float64 on the CPU, for docs/benchmarks.md: the largest relative
deviation of a feature map, that of all gradients together, and whether two runs give the same bits."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mmatm.benchmark.report import split_docs, update_docs
from mmatm.models import Backbone, backbones
from mmatm.utils.environment import environment

HEIGHT, WIDTH = 150, 203  # odd maps in most stages
WAYS = {
    'cpu': {'float32': (torch.float32, False)},
    'cuda': {
        'float64': (torch.float64, False),
        'float32': (torch.float32, False),
        'bfloat16 by autocast': (torch.float32, True),
    },
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = 'cuda' if torch.cuda.is_available() else 'cpu'
    parser.add_argument('--device', choices=list(WAYS), default=default, help='default: %(default)s')
    parser.add_argument('--docs', type=Path, help='write into benchmarks.md in this directory')
    args = parser.parse_args(arguments)
    name = f'deviations-{args.device}'
    if args.docs:
        split_docs(args.docs / 'benchmarks.md', name)
    # Convolutions of a GPU round their inputs to 10 bits otherwise.
    torch.backends.cudnn.allow_tf32 = False
    seen = ', '.join(f'{key} {value}' for key, value in environment(args.device).items())
    ways = WAYS[args.device]
    lines = [
        f'Seen with: {seen}.',
        '',
        f'The smallest size of each, in training without drop path, 2 x {HEIGHT}x{WIDTH}.',
        '',
        '| backbone | ' + ' | '.join(f'{way}: maps | gradients' for way in ways) + ' | the same bits twice |',
        '| --- ' * (2 + 2 * len(ways)) + '|',
    ]
    for kind in {kind.__name__: kind for kind in backbones().values() if kind.__module__.startswith('mmatm.')}.values():
        lines.append(compare(kind, args.device))
        print(lines[-1], flush=True)
    text = '\n'.join(lines)
    print(text)
    if args.docs:
        update_docs(args.docs / 'benchmarks.md', name, text)


def compare(kind: type[Backbone], device: str) -> str:
    """The row of a backbone."""
    torch.manual_seed(0)
    model = kind(drop_path_rate=0.0)
    for parameter in model.parameters():
        if parameter.numel() == 1 or parameter.std() == 0:  # norms, scales, and what starts without an effect
            nn.init.normal_(parameter, parameter.flatten()[0].item(), 0.1)
    images = torch.randn(2, model.in_channels, HEIGHT, WIDTH)
    model.train()
    exact = run(model, images, 'cpu', torch.float64, autocast=False)
    found = {way: [run(model, images, device, *settings) for _ in range(2)] for way, settings in WAYS[device].items()}
    cells = []
    for first, _ in found.values():
        maps = max(deviation([got], [expected]) for got, expected in zip(first[0], exact[0], strict=True))
        cells += [f'{maps:.1e}', f'{deviation(first[1], exact[1]):.1e}']
    cells.append(', '.join('yes' if is_same(*both) else 'no' for both in found.values()))
    return f'| {kind.__name__} | ' + ' | '.join(cells) + ' |'


def run(
    model: Backbone, images: Tensor, device: str, dtype: torch.dtype, autocast: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Feature maps, and gradients of all parameters."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    model.to(device, dtype).zero_grad()
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        maps = model(images.to(device, dtype))
    sum((y.double() * torch.linspace(-1, 1, y.numel(), device=device).view(y.shape)).mean() for y in maps).backward()
    found = [y.detach().double().cpu() for y in maps], [p.grad.double().cpu().clone() for p in model.parameters()]
    model.to('cpu', torch.float32).load_state_dict(state)  # batch norms too
    return found


def deviation(got: list[Tensor], expected: list[Tensor]) -> float:
    """||got - expected|| / ||expected||, of all values together."""
    one, other = (torch.cat([y.flatten() for y in each]) for each in (got, expected))
    return ((one - other).norm() / other.norm()).item()


def is_same(one: tuple[list[Tensor], list[Tensor]], two: tuple[list[Tensor], list[Tensor]]) -> bool:
    """Whether two runs gave the same bits."""
    return all(torch.equal(a, b) for i in range(2) for a, b in zip(one[i], two[i], strict=True))


if __name__ == '__main__':
    main()
