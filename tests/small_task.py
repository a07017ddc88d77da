"""A task of words alone for tests of teachers: find the door, hold the key of its colour, open the door."""

import numpy as np

from preceptor.envs.task import Option, OptionSpace, Scene, Task

COLOURS = ("red", "green", "blue")


class SmallTask(Task):
    """Scenes of a door and three keys; nothing to act in, so only what teachers need of `Task`."""

    name = "SmallTask"
    goal = "Open the door with the key of its colour."
    rules = "A door opens with the key of its colour {held} in the hand. You can hold one thing."
    options = OptionSpace(
        [
            Option("explore", "explore the room", 10),
            *(Option(f"take:{colour}", f"take the {colour} key", 10) for colour in COLOURS),
            Option("open", "open the door", 10),
        ]
    )
    observation_shape = (1, 1, 4)
    num_actions = 7
    continuous = False

    def scene(self, door: str, keys: tuple[str, ...], held: str) -> Scene:
        """The scene of a door colour (or `unseen`), the keys in sight and the key in the hand (or `nothing`)."""
        text = f"The {door} door is in sight." if door != "unseen" else "No door has been seen."
        text += "".join(f" The {key} key is in sight." for key in keys)
        text += f" You hold {'nothing' if held == 'nothing' else f'the {held} key'}."
        legal = [0, *(1 + COLOURS.index(key) for key in keys if held == "nothing")]
        legal += [4] if door != "unseen" else []
        return Scene(self.name, (f"door={door}", f"keys={','.join(keys)}", f"held={held}"), text, tuple(sorted(legal)))

    def script(self, scene: Scene) -> int:
        """Explore until the right key is in sight, take it, open the door."""
        door, keys, held = (fact.split("=")[1] for fact in scene.facts)
        if door == "unseen":
            return 0
        if held == door:
            return 4
        return 1 + COLOURS.index(door) if door in keys.split(",") and held == "nothing" else 0

    def sample_scenes(self, rng: np.random.Generator, count: int) -> list[Scene]:
        """Random doors, keys in sight and hands."""
        scenes = []
        for _ in range(count):
            held = str(rng.choice(["nothing", *COLOURS]))
            keys = tuple(key for key in COLOURS if key != held and rng.random() < 0.5)
            scenes.append(self.scene(str(rng.choice(["unseen", *COLOURS])), keys, held))
        return scenes
