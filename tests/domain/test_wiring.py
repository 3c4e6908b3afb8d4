"""What is put together wrongly is refused at start, with a sentence that names the function, the type and the cure."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest

import twofold.domain
from tests.domain import lifecycle_mistakes as mistakes_of_lifecycles
from tests.domain import wiring_mistakes as bad
from tests.sample_domains.orders import (
    MODELS,
    SUMMARIES,
    CustomerId,
    Line,
    Order,
    OrderCancelled,
    OrderId,
    OrderPaid,
    OrderPlaced,
    PlaceOrder,
    Shipped,
    Sku,
    place_order,
    summarise,
)
from twofold.domain.decision import Context, Decision, DecisionModel
from twofold.domain.events import Event, RecordedEvent
from twofold.domain.module import Module, Wiring
from twofold.domain.policy import Policy
from twofold.domain.projection import Projection
from twofold.domain.tags import Tag
from twofold.errors import WiringError

EVENTS = [OrderPlaced, OrderPaid, OrderCancelled, Shipped]


def wire(*modules: Module, **lists: Any) -> Wiring:
    return Wiring([*modules, Module("m", **({"events": EVENTS} | lists))])


def listing(function: Callable[..., Any], *models: DecisionModel) -> Callable[[], Wiring]:
    return lambda: wire(models=models or MODELS, decisions=[function])


def modelling(state: type, by: object = OrderId) -> Callable[[], Wiring]:
    return lambda: wire(models=[DecisionModel(state, by=by)])


def projecting(fold: Callable[..., Any], key: object = OrderId, **more: Any) -> Callable[[], Wiring]:
    return lambda: wire(projections=[Projection("p", fold, key=key, **more)])


def reacting(react: Callable[..., Any], key: object = None) -> Callable[[], Wiring]:
    return lambda: wire(policies=[Policy("p", react, key=key)])


def preparing(*functions: Callable[..., Any]) -> Callable[[], Wiring]:
    return lambda: wire(models=MODELS, decisions=[place_order], prepare=functions)


MISTAKES: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "a decision asks for a model nobody lists": (
        listing(bad.asks_for_an_unlisted_model),
        [
            "asks_for_an_unlisted_model asks for Line (parameter 'line')",
            "Add DecisionModel(Line, by=…) to `models=[…]`",
        ],
    ),
    "a command lacks the tag a model is folded by": (
        listing(bad.lacks_the_tag),
        ["lacks_the_tag needs Order", "tag 'order'", "ShipOrder does not carry it", "Give it a field", "Tag('order')"],
    ),
    "many ids of a kind that the command lacks": (
        listing(bad.dict_without_ids),
        ["dict_without_ids needs Order", "ShipOrder does not carry it", "Tag('order')"],
    ),
    "an event a model reads lacks its tag": (
        modelling(bad.NeverSees, by=CustomerId),
        ["DecisionModel(NeverSees)", "'customer'", "OrderCancelled does not carry it", "Give OrderCancelled a field"],
    ),
    "a model reads an event nobody lists": (
        modelling(bad.ReadsUnlisted),
        ["DecisionModel(ReadsUnlisted) reads OrderShipped", "Add OrderShipped to `events=[…]`"],
    ),
    "a projection reads an event nobody lists": (
        projecting(bad.reads_unlisted),
        ["Projection('p', reads_unlisted) reads OrderShipped", "Add OrderShipped to `events=[…]`"],
    ),
    "a policy reacts to an event nobody lists": (
        reacting(bad.reacts_to_unlisted),
        ["Policy('p') reacts to OrderShipped", "Add OrderShipped to `events=[…]`"],
    ),
    "two decisions for one command": (
        lambda: wire(models=MODELS, decisions=[place_order, bad.place_order_again]),
        ["place_order and place_order_again both decide PlaceOrder", "remove one, or let it take another command"],
    ),
    "one decision listed twice": (
        lambda: wire(models=MODELS, decisions=[place_order, place_order]),
        ["place_order and place_order both decide PlaceOrder", "remove one"],
    ),
    "two events with one stored name": (
        lambda: wire(events=[OrderPlaced, bad.placed_elsewhere()]),
        ["OrderPlaced and placed_elsewhere.<locals>.OrderPlaced are both stored as 'order-placed'", "name='…'"],
    ),
    "an event listed by two modules": (
        lambda: wire(Module("other", events=[OrderPlaced])),
        ["OrderPlaced is listed twice as event", "'order-placed'", "Keep one of them"],
    ),
    "an event listed under two names": (
        lambda: wire(events=[OrderPlaced, Event(OrderPlaced, name="sale")]),
        ["OrderPlaced is listed twice", "stored as 'order-placed' and as 'sale'", "Keep one"],
    ),
    "a version without its upcaster": (
        lambda: wire(events=[Event(OrderPlaced, version=3, upcasters={1: bad.step})]),
        ["Event(OrderPlaced, version=3) has no upcaster from version 2", "Add upcasters={2: function}"],
    ),
    "an upcaster from no older version": (
        lambda: wire(events=[Event(OrderPlaced, version=2, upcasters={1: bad.step, 2: bad.step})]),
        ["Event(OrderPlaced, version=2) has an upcaster from version 2", "Raise `version`, or remove the upcaster"],
    ),
    "a version below one": (
        lambda: wire(events=[Event(OrderPlaced, version=0)]),
        ["Event(OrderPlaced, version=0)", "count up from 1"],
    ),
    "an event that can be changed": (
        lambda: wire(events=[bad.Mutable]),
        ["Mutable is listed as event but can be changed", "Add frozen=True"],
    ),
    "a dataclass that can be changed": (
        lambda: wire(events=[bad.MutableToo]),
        ["MutableToo is listed as event but can be changed", "Add frozen=True"],
    ),
    "an event that is no record": (
        lambda: wire(events=[bad.NoRecord]),
        ["NoRecord is listed as event but is not a record", "msgspec Struct or dataclass, frozen=True"],
    ),
    "a command that can be changed": (
        listing(bad.takes_mutable),
        ["Mutable is listed as command but can be changed", "Add frozen=True"],
    ),
    "a command that is no record": (
        listing(bad.takes_text),
        ["takes_text: its first parameter 'command' must be one command type", "not <class 'str'>"],
    ),
    "a decision for two commands": (
        listing(bad.takes_two_commands),
        ["takes_two_commands: its first parameter 'command' must be one command type", "a decision one command"],
    ),
    "two commands with one name": (
        lambda: wire(models=MODELS, decisions=[place_order, bad.same_name_elsewhere()]),
        ["Two types have the command name 'place-order'", "Rename one of them"],
    ),
    "a command with several ids for one model": (
        listing(bad.carries_several, DecisionModel(bad.OneStock, by=Sku)),
        [
            "carries_several: ShipOrder carries several ids of kind 'sku'",
            "'stock'",
            "Take dict[<the tag type>, OneStock]",
        ],
    ),
    "an id that may be None for a model that may not": (
        listing(bad.needs_what_may_be_none),
        ["needs_what_may_be_none: the 'order' id of MaybeOrder may be None", "'order' must be `Order | None`"],
    ),
    "a dict with the wrong key": (
        listing(bad.wrong_dict_key),
        ["wrong_dict_key: parameter 'orders' is a dict of Order", "the tag type the model is folded by (order)"],
    ),
    "a dict of a model without a tag": (
        listing(bad.dict_of_untagged, DecisionModel(bad.Everything)),
        ["dict_of_untagged: parameter 'orders' is a dict of Everything", "it has none"],
    ),
    "a parameter for either of two models": (
        listing(bad.either_model),
        ["either_model: parameter 'either' must be one listed model", "`Model | None`"],
    ),
    "a decision that returns an event nobody lists": (
        listing(bad.returns_unlisted),
        ["returns_unlisted returns OrderShipped", "add OrderShipped to `events=[…]`"],
    ),
    "a decision that returns a list of what nobody lists": (
        listing(bad.returns_a_list_of_unlisted),
        ["returns_a_list_of_unlisted returns OrderShipped", "add OrderShipped to `events=[…]`"],
    ),
    "a decision that returns a tuple": (
        listing(bad.returns_a_tuple),
        ["returns_a_tuple returns tuple[", "one listed event, a list of them, or None"],
    ),
    "a decision that returns anything": (
        listing(bad.returns_any),
        ["returns_any returns", "Any", "one listed event, a list of them, or None"],
    ),
    "a decision that says not what it returns": (
        listing(bad.says_not_what_it_returns),
        ["says_not_what_it_returns: annotate what it returns"],
    ),
    "a decision without a command": (
        listing(bad.takes_nothing),
        ["takes_nothing: annotate every parameter", "none given"],
    ),
    "a decision with a parameter without a hint": (
        listing(bad.takes_unknown),
        ["takes_unknown: annotate every parameter", "without a hint: order"],
    ),
    "an async decision": (listing(bad.is_async), ["is_async is async, but a decision is pure", "`prepare` step"]),
    "a hint that is not there at run time": (
        listing(bad.hidden_hint),
        ["hidden_hint: the type hint 'OnlyForTheTypeChecker'", "Define it at module level", "TYPE_CHECKING"],
    ),
    "a decision without readable hints": (
        listing(functools.partial(place_order)),
        ["its type hints cannot be read", "List a plain function or class"],
    ),
    "a model listed twice": (
        lambda: wire(models=[*MODELS, DecisionModel(Order, by=OrderId)]),
        ["DecisionModel(Order) is listed twice", "a state type stands for one model"],
    ),
    "a model that cannot evolve": (
        modelling(bad.NoEvolve),
        ["DecisionModel(NoEvolve): NoEvolve has no `evolve`", "Add `def evolve(self, event: …)`"],
    ),
    "a model folded by what is no tag": (
        modelling(Order, by=str),
        ["DecisionModel(Order, by=<class 'str'>)", "`by` takes a tag type", 'Annotated[str, Tag("order")]'],
    ),
    "a state without a default": (
        modelling(bad.NoDefault),
        ["DecisionModel(NoDefault): NoDefault() fails", "'count'", "Give every field a default"],
    ),
    "a state that can be changed": (
        modelling(bad.MutableState),
        ["DecisionModel(MutableState): MutableState can be changed", "Add frozen=True"],
    ),
    "an evolve without a hint": (modelling(bad.NoHint), ["NoHint.evolve: annotate the event"]),
    "an evolve that wants something else": (
        modelling(bad.OneMore),
        ["OneMore.evolve: besides the event it may take one parameter annotated RecordedEvent"],
    ),
    "an evolve that wants too much": (
        modelling(bad.TwoMore),
        ["TwoMore.evolve: besides the event it may take one parameter annotated RecordedEvent"],
    ),
    "two projections with one name": (
        lambda: wire(projections=[SUMMARIES, SUMMARIES]),
        ["BoundProjection 'order-summaries' is listed twice", "Give one of them another name"],
    ),
    "two policies with one name": (
        lambda: wire(policies=[Policy("p", bad.reacts), Policy("p", bad.reacts)]),
        ["BoundPolicy 'p' is listed twice", "Give one of them another name"],
    ),
    "a projection and a policy with one name": (
        lambda: wire(projections=[SUMMARIES], policies=[Policy("order-summaries", bad.reacts)]),
        ["'order-summaries' names both a projection and a policy", "another name"],
    ),
    "an event that lacks the key of a projection": (
        projecting(bad.lacks_the_key, key=CustomerId),
        ["keyed by the tag 'customer'", "OrderCancelled does not carry it", "or give `key` a function"],
    ),
    "a key that is neither tag nor function": (
        projecting(summarise, key="order_id"),
        ["Projection('p', summarise): `key` takes a tag type or a function"],
    ),
    "an async fold": (projecting(bad.async_fold), ["async_fold): the fold is async, but a fold is pure"]),
    "a fold of one parameter": (
        projecting(bad.one_parameter),
        ["one_parameter", "annotate the fold", "row: Row | None"],
    ),
    "a fold without hints": (projecting(bad.no_hint_for_the_event), ["no_hint_for_the_event", "annotate the fold"]),
    "a fold whose row is never None": (
        projecting(bad.never_none),
        ["never_none", "the row or None: `row: Row | None`"],
    ),
    "a fold whose row is no record": (projecting(bad.no_record), ["no_record", "Row a Struct or dataclass"]),
    "a fold of two rows": (projecting(bad.two_rows), ["two_rows", "`row: Row | None`"]),
    "a fold that wants another key": (
        projecting(bad.wrong_key),
        ["wrong_key", "parameter 'customer' must be RecordedEvent, or the key's own type, tagged Tag('order')"],
    ),
    "a field to find by that no row has": (
        projecting(summarise, find_by=["customer"]),
        ["OrderSummary has no field 'customer'", "It has: order_id, customer_id, total, paid"],
    ),
    "a field to order by that no row has": (
        projecting(summarise, order_by=["age"]),
        ["OrderSummary has no field 'age'", "It has: order_id"],
    ),
    "a policy that is not async": (reacting(bad.not_async), ["Policy('p'): the reaction must be `async def`"]),
    "a policy without a hint": (reacting(bad.reacts_to_anything), ["Policy('p'): annotate the event"]),
    "a policy that wants something else": (
        reacting(bad.wants_more),
        ["Policy('p'): parameter 'more' must be annotated RecordedEvent or Context"],
    ),
    "a policy whose key is no tag type": (
        reacting(bad.reacts, key=str),
        ["Policy('p'): `key` takes a tag type, for example OrderId"],
    ),
    "a policy whose key is a tag that an event does not carry": (
        reacting(bad.reacts, key=Annotated[str, Tag("ship")]),
        ["the tag 'ship', and OrderPlaced does not carry it exactly once", "Give OrderPlaced one field"],
    ),
    "a policy whose key is a name of what is parked": (
        reacting(bad.reacts, key=Annotated[str, Tag("due")]),
        ["`key` cannot be the tag 'due'"],
    ),
    "a prepare step for no decision": (
        preparing(bad.prepare_shipping),
        ["prepare_shipping prepares ShipOrder, which no decision takes", "List one in `decisions=[…]`"],
    ),
    "a prepare step into another command": (
        preparing(bad.prepare_into_another),
        ["prepare_into_another", "(command: C) -> C"],
    ),
    "a prepare step of two parameters": (preparing(bad.prepare_two), ["prepare_two", "(command: C) -> C"]),
    "a prepare step that is not async": (
        preparing(bad.prepare_at_once),
        ["prepare_at_once", "`async def prepare_at_once"],
    ),
    "two prepare steps for one command": (
        preparing(bad.prepare_order, bad.prepare_again),
        ["prepare_order and prepare_again both prepare PlaceOrder", "Keep one prepare step"],
    ),
} | mistakes_of_lifecycles.MISTAKES


@pytest.mark.parametrize(("wrong", "says"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_refused_with_its_cure(wrong: Callable[[], Any], says: list[str]) -> None:
    with pytest.raises(WiringError) as refused:
        wrong()
    text = str(refused.value)
    assert [part for part in says if part not in text] == [], text
    assert text.endswith(".")


def test_every_wiring_error_of_modules_decisions_projections_and_policies_has_its_mistake() -> None:
    raised: set[tuple[str, int]] = set()
    for wrong, _ in MISTAKES.values():
        with pytest.raises(WiringError) as refused:
            wrong()
        last = refused.traceback[-1]
        raised.add((Path(str(last.path)).name, last.lineno + 1))
    folder = Path(twofold.domain.__file__).parent
    written = {
        (name, number)
        for name in ("decision.py", "module.py", "policy.py", "projection.py")
        for number, line in enumerate((folder / name).read_text("utf-8").splitlines(), 1)
        if re.search(r"raise WiringError", line)
    }
    assert written - {_statement(folder, place) for place in raised} == set()


def _statement(folder: Path, place: tuple[str, int]) -> tuple[str, int]:
    """The line where the statement around a line begins."""
    path = folder / place[0]
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    number = place[1]
    while number > 1 and lines and "raise WiringError" not in lines[number - 1]:
        number -= 1
    return place[0], number


def test_what_is_wired_right_is_read_off() -> None:
    wiring = wire(
        models=MODELS,
        decisions=[place_order],
        projections=[SUMMARIES],
        policies=[Policy("p", bad.reacts)],
        prepare=[bad.prepare_order],
    )
    assert wiring.commands == {"place-order": PlaceOrder}
    assert list(wiring.events) == ["order-placed", "order-paid", "order-cancelled", "shipped"]
    assert wiring.names[OrderPaid] == "order-paid"
    assert wiring.decisions[PlaceOrder].function is place_order
    assert list(wiring.projections) == ["order-summaries"]
    assert wiring.policies["p"].events == (OrderPlaced,)
    assert wiring.prepare == {PlaceOrder: bad.prepare_order}


def test_a_module_may_read_what_another_lists() -> None:
    wiring = Wiring([Module("events", events=EVENTS), Module("rest", models=MODELS, decisions=[place_order])])
    assert isinstance(wiring.decisions[PlaceOrder], Decision)


async def test_a_policy_gets_what_its_hints_ask_for() -> None:
    seen: list[object] = []

    async def note(event: OrderPlaced | OrderPaid, context: Context, recorded: RecordedEvent) -> Line:
        seen.extend((event, context, recorded))
        return Line("a", 1)

    policy = wire(policies=[Policy("p", note, from_start=True)]).policies["p"]
    event, recorded, context = OrderPaid("o1", "a"), object(), object()
    assert await policy.react(event, recorded, context) == Line("a", 1)
    assert seen == [event, context, recorded]
    assert (policy.types, policy.from_start) == (("order-placed", "order-paid"), True)
