"""Read a pickle as data: nothing that it names is imported, made or called.

A pickle is a program for a small stack machine. It may name any object of any module and have it
called, may ask for more memory than it has bytes, and may use keys whose hash takes forever. The
standard library reads its instructions (`pickletools`); the machine here carries them out on
dictionaries with strings as keys, lists, tuples, strings, bytes and numbers. All else becomes an
`Opaque`, which only has a name. No instruction takes more than a constant amount of memory beside
its own bytes, and a pickle has at most `INSTRUCTIONS`.
"""

import pickle
import pickletools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from emanet_jax.errors import UserError

INSTRUCTIONS = 2_000_000  # some 40 describe a tensor; all take about 10 s and 400 MB at most


class Opaque(NamedTuple):
    """An object that is not made: a name of a module, or what calling it would have given."""

    module: str  # apart from the name: a memoised string of any length costs no copy
    name: str


# Functions from the arguments of a call to what stands for its result, by what is called.
Makers = Mapping[Opaque, Callable[[tuple[Any, ...]], Any]]


def load(path: Path, file: IO[bytes], makers: Makers, persistent: Callable[[Any], Any]) -> Any:
    """Read the pickle that starts at the file's position, and no further.

    Args:
      path: the file's name in messages.
      file: its `read` must not take memory for bytes that it does not have.
      makers: calls that mean something. They, too, take constant time and memory.
      persistent: from an id that the pickle gives to an object outside, to what stands for it.

    Raises:
      UserError: it is too long.
      pickle.UnpicklingError, ValueError, LookupError, AttributeError: it is no whole pickle.
    """
    machine = _Machine(makers, persistent)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count == INSTRUCTIONS:
            raise UserError(
                f"{path} holds a pickle of more than {INSTRUCTIONS:,} instructions, far more than "
                "tensors need; save the state dict alone, as torch.save(model.state_dict(), ...) "
                "does."
            )
        machine.run(opcode.name, argument)
    return machine.stack.pop()


class _Machine:
    """The stack, the places that are marked in it, and the memo."""

    def __init__(self, makers: Makers, persistent: Callable[[Any], Any]) -> None:
        self._makers = makers
        self._persistent = persistent
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self.stack: list[Any] = []

    def run(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        match opcode:
            case "PROTO" | "FRAME" | "STOP" | "READONLY_BUFFER":
                pass
            case "MARK":
                self._marks.append(len(stack))
            case "POP":
                at_mark = self._marks and self._marks[-1] == len(stack)
                (self._marks if at_mark else stack).pop()
            case "POP_MARK":
                self._pop_marked()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                if not 0 <= argument < INSTRUCTIONS:  # integers of any size can share a hash
                    raise pickle.UnpicklingError("an index of the memo is out of range")
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode == "NEWTRUE")
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(opcode[-1]))]
                stack.append(tuple(reversed(items)))
            case "TUPLE":
                stack.append(tuple(self._pop_marked()))
            case "EMPTY_LIST":
                stack.append([])
            case "LIST":
                stack.append(self._pop_marked())
            case "APPEND":
                _extend(stack[-2], [stack.pop()])
            case "APPENDS" | "ADDITEMS":
                items = self._pop_marked()
                _extend(stack[-1], items)
            case "EMPTY_SET":
                stack.append(Opaque("builtins", "set"))
            case "FROZENSET":
                self._pop_marked()
                stack.append(Opaque("builtins", "frozenset"))
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                stack.append(_update({}, self._pop_marked()))
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _update(stack[-1], [key, value])
            case "SETITEMS":
                items = self._pop_marked()
                _update(stack[-1], items)
            case "GLOBAL":
                stack.append(Opaque(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                if not (isinstance(module, str) and isinstance(name, str)):
                    raise pickle.UnpicklingError("a module or a name in it is no string")
                stack.append(Opaque(module, name))
            case "REDUCE":
                arguments, called = stack.pop(), stack.pop()
                stack.append(self._call(called, arguments))
            case "NEWOBJ":
                stack.pop()  # the arguments; the class below stands for its object
            case "NEWOBJ_EX":
                del stack[-2:]
            case "INST":
                self._pop_marked()
                stack.append(Opaque(*argument.split(" ", 1)))
            case "OBJ":
                stack.append(self._pop_marked()[0])
            case "BUILD":
                stack.pop()  # the attributes
            case "EXT1" | "EXT2" | "EXT4":
                stack.append(Opaque("copyreg", f"extension {argument}"))
            case "NEXT_BUFFER":
                stack.append(Opaque("pickle", "PickleBuffer"))
            case "PERSID":
                stack.append(self._persistent(argument))
            case "BINPERSID":
                stack.append(self._persistent(stack.pop()))
            case _:  # numbers, strings and bytes
                stack.append(argument)

    def _pop_marked(self) -> list[Any]:
        start = self._marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _call(self, called: Any, arguments: Any) -> Any:
        if not (isinstance(called, Opaque) and isinstance(arguments, tuple)):
            return Opaque("builtins", "object")
        return self._makers[called](arguments) if called in self._makers else called


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Opaque):
        raise pickle.UnpicklingError("items for an object that takes none")


def _update(target: Any, items: list[Any]) -> Any:
    """Set keys and values that alternate; keys other than strings are not kept."""
    if isinstance(target, dict):
        pairs = zip(items[::2], items[1::2], strict=True)
        target.update((key, value) for key, value in pairs if isinstance(key, str))
    elif not isinstance(target, Opaque):
        raise pickle.UnpicklingError("keys and values for an object that takes none")
    return target
