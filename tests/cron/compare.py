"""pgq.next_runs against cronsim, an implementation of cron in another language, and, for what that does not know,
against a calendar that is walked day by day.

    compare.py [--count N] [--seed S] [CASE …]     N next runs, of days that are looked at one by one a tenth of them; one
                                                   line a case, the last line counts them
    compare.py --list

cronsim is asked about a wall clock that is never changed; which moment a wall clock's time is, is said here by Python's
zoneinfo: of a time that is skipped the moment right after the gap, of one that is repeated the first. PGHOST and so on
name the server, PYTHONTZPATH the time zones that it has.
"""

import argparse
import calendar
import random
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from itertools import islice
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim

UTC = timezone.utc
RUNS = 10
FIRST, LAST = datetime(1990, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)
CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def offset(zone, at):
    return at.astimezone(zone).utcoffset()


def change(zone, low, high):
    """The moment in (low, high] at which the offset changes; there is one."""
    before = offset(zone, low)
    low, high = int(low.timestamp()), int(high.timestamp())
    while high - low > 1:
        middle = (low + high) // 2
        if offset(zone, datetime.fromtimestamp(middle, UTC)) == before:
            low = middle
        else:
            high = middle
    return datetime.fromtimestamp(high, UTC)


def first(zone, wall):
    """The first moment at which the wall clock shows this; of what it skips, the change."""
    at = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if at.astimezone(zone).replace(tzinfo=None) == wall:
        return at
    return change(zone, wall.replace(tzinfo=zone, fold=1).astimezone(UTC), at)


def moments(zone, walls, after):
    for wall in walls:
        at = first(zone, wall)
        if at > after:
            after = at
            yield at


def changes(zone):
    """Some changes of the clock in the years that are tried."""
    found, at = [], FIRST
    while at < LAST:
        later = at + timedelta(days=20)
        if offset(zone, at) != offset(zone, later):
            found.append(change(zone, at, later))
        at = later
    return found


class Draw:
    def __init__(self, seed):
        self.random = random.Random(seed)
        names = sorted(name for name in available_timezones() if "/" in name and not name.startswith(("Etc/", "posix", "right")))
        self.zones = [ZoneInfo(name) for name in self.random.sample(names, min(100, len(names)))]
        self.changes = {zone: changes(zone) for zone in self.zones}

    def number(self, low, high):
        return self.random.randint(low, high)

    def start(self, zone):
        """Half of them shortly before the clock is changed."""
        if self.changes[zone] and self.random.random() < 0.5:
            at = self.random.choice(self.changes[zone]) - timedelta(seconds=self.number(-4 * 3600, 2 * 86400))
        else:
            at = FIRST + timedelta(seconds=self.number(0, int((LAST - FIRST).total_seconds())))
        return at.replace(microsecond=0)

    def field(self, low, high, steps=True):
        kind = self.number(0, 5 if steps else 4)
        if kind <= 1:
            return "*"
        if kind == 2:
            return str(self.number(low, high))
        if kind == 3:
            return ",".join(str(self.number(low, high)) for _ in range(self.number(2, 3)))
        if kind == 4:
            start = self.number(low, high - 1)
            return f"{start}-{self.number(start + 1, high)}"
        return f"*/{self.number(2, max(2, (high - low) // 2))}"

    def pattern(self):
        minute, hour = self.field(0, 59), self.field(0, 23)
        month = self.random.choice(["*", "*", "*", str(self.number(1, 12)), "jan-mar", "JUN,oct", "*/3"])
        # What both understand in the same way: no steps where both days are given, and no days that a month lacks.
        dom = self.random.choice(["*", "*", "*", "L", self.field(1, 28, steps=False)])
        dow = self.random.choice(["*", "*", "mon-fri", "SUN", "0", "7", "2,4", f"{self.number(0, 6)}#{self.number(1, 4)}", f"{self.number(0, 6)}L"])
        second = [self.field(0, 59)] if self.random.random() < 0.1 else []
        return " ".join([*second, minute, hour, dom, month, dow])


def asked(cases):
    """What the server says: for each (pattern, zone, after) its next runs."""
    lines = "".join(f"{n}\t{pattern}\t{zone.key}\t{after.isoformat()}\n" for n, (pattern, zone, after) in enumerate(cases))
    script = (
        "CREATE TEMP TABLE c (n int, pattern text, zone text, after timestamptz);\n"
        f"COPY c FROM stdin;\n{lines}\\.\n"
        f"SELECT n, extract(epoch FROM r)::bigint FROM c, pgq.next_runs(pattern, {RUNS}, zone, after) AS r ORDER BY n, r;\n"
    )
    said = subprocess.run(
        ["psql", "-X", "-q", "-A", "-t", "-F", " ", "-v", "ON_ERROR_STOP=1"], input=script, text=True, check=True, stdout=subprocess.PIPE
    )
    found = [[] for _ in cases]
    for line in said.stdout.splitlines():
        n, epoch = line.split()
        found[int(n)].append(datetime.fromtimestamp(int(epoch), UTC))
    return found


def compared(cases, walls):
    """How many cases differ from what `walls` says, and how many runs were compared."""
    different = runs = 0
    for (pattern, zone, after), found in zip(cases, asked(cases), strict=True):
        wanted = list(islice(moments(zone, walls(pattern, after.astimezone(zone).replace(tzinfo=None)), after), RUNS))
        runs += len(wanted)
        if found != wanted:
            different += 1
            if different <= 5:
                told = [(w.isoformat(), f.isoformat()) for w, f in zip(wanted, found) if w != f][:2]
                print(f"{pattern!r} in {zone.key} after {after.isoformat()}: wanted, found {told}")
    return different, runs


@case
def the_next_runs_are_those_of_cronsim(draw, count):
    cases = []
    for n in range(count // RUNS):
        zone = draw.zones[n % len(draw.zones)]
        cases.append((draw.pattern(), zone, draw.start(zone)))
    return compared(cases, CronSim)


def nearest_weekday(year, month, day):
    """Of Monday to Friday the nearest to a day, in its month."""
    days = calendar.monthrange(year, month)[1]
    day = min(day, days)
    weekday = calendar.weekday(year, month, day)
    if weekday == calendar.SATURDAY:
        return day - 1 if day > 1 else day + 2
    if weekday == calendar.SUNDAY:
        return day + 1 if day < days else day - 2
    return day


def weekday_walls(pattern, after):
    minute, hour, dom, _, _ = pattern.split()
    month = after.replace(day=1)
    while True:
        day = nearest_weekday(month.year, month.month, int(dom[:-1]))
        wall = datetime(month.year, month.month, day, int(hour), int(minute))
        if wall > after:
            yield wall
        month = (month.replace(day=1) + timedelta(days=32)).replace(day=1)


@case
def the_weekday_nearest_to_a_day_is_that_of_the_calendar(draw, count):
    cases = []
    for n in range(count // RUNS // 10):
        zone = draw.zones[n % len(draw.zones)]
        pattern = f"{draw.number(0, 59)} {draw.number(0, 23)} {draw.number(1, 28)}W * *"
        cases.append((pattern, zone, draw.start(zone)))
    return compared(cases, weekday_walls)


def special_walls(pattern, after):
    """L, # and the last weekday, by looking at every day."""
    minute, hour, dom, _, dow = pattern.split()
    date = after.date()
    while True:
        days = calendar.monthrange(date.year, date.month)[1]
        if dom == "L":
            fits = date.day == days
        elif dow.endswith("L"):
            fits = date.isoweekday() % 7 == int(dow[:-1]) and date.day + 7 > days
        else:
            weekday, nth = map(int, dow.split("#"))
            fits = date.isoweekday() % 7 == weekday and (date.day + 6) // 7 == nth
        wall = datetime(date.year, date.month, date.day, int(hour), int(minute))
        if fits and wall > after:
            yield wall
        date += timedelta(days=1)


@case
def last_and_nth_days_are_those_of_the_calendar(draw, count):
    cases = []
    for n in range(count // RUNS // 10):
        zone = draw.zones[n % len(draw.zones)]
        day, nth = draw.number(0, 6), draw.number(1, 5)
        special = draw.random.choice(["L * *", f"* * {day}L", f"* * {day}#{nth}"])
        cases.append((f"{draw.number(0, 59)} {draw.number(0, 23)} {special}", zone, draw.start(zone)))
    return compared(cases, special_walls)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("cases", nargs="*")
    options = parser.parse_args()
    if options.list:
        print("\n".join(CASES))
        return 0
    draw = Draw(options.seed)
    failed = 0
    wanted = options.cases or list(CASES)
    for name in wanted:
        different, runs = CASES[name](draw, options.count)
        failed += different > 0
        print(f"test {name} ... {'FAILED' if different else 'ok'} ({runs} runs, {len(draw.zones)} zones, {different} different, seed {options.seed})")
    print(f"test result: {'FAILED' if failed else 'ok'}. {len(wanted) - failed} passed; {failed} failed; 0 ignored")
    return 1 if failed else 0


sys.exit(main())
