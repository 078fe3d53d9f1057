"""The default scene without a bag: a tour of a room that was not used for training."""

from pathlib import Path

from gld_ros.scenes.tour_bag import first_room_with_tour, write_tour_bag

ROOM_DOMAIN = "narrow"


def room_tour(path: Path) -> Path:
    """Render the tour through a held-out room, unless an earlier run did."""
    if not path.exists():
        scene_id = first_room_with_tour(ROOM_DOMAIN)
        print(f"rendering a tour through held-out room {scene_id} ({ROOM_DOMAIN}) ...")
        write_tour_bag(path, ROOM_DOMAIN, scene_id)
    return path
