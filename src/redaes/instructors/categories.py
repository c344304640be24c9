"""The predefined categories of edits that instructors on chat models choose from, each tagged for Sec. 4.4.

The paper names style transfer, object removal, colour grading and lighting and leaves the rest open: the list is ours.
"""

from dataclasses import dataclass

from redaes.records import Orientation


@dataclass(frozen=True)
class Category:
    """One kind of edit.

    Attributes:
        orientation: `quality` or `content` (Sec. 4.4).
        about: what belongs to it; may be empty.
    """

    orientation: Orientation
    about: str = ""


CATEGORIES: dict[str, Category] = {
    "exposure": Category("quality", "brighter or darker, highlights and shadows"),
    "contrast": Category("quality", "global or local contrast, haze, the range of tones"),
    "lighting": Category("quality", "direction, softness or mood of the light"),
    "colour_grading": Category("quality", "palette and mood of the colours, black and white included"),
    "white_balance": Category("quality", "colour casts, warmer or cooler"),
    "saturation": Category("quality", "richer or quieter colours"),
    "sharpness": Category("quality", "detail, texture, focus"),
    "noise": Category("quality", "grain and noise, less or more"),
    "depth_of_field": Category("quality", "blur of the background or of the foreground"),
    "retouching": Category("quality", "dust, blemishes, reflections, damage"),
    "object_removal": Category("content", "something that distracts, taken away"),
    "object_addition": Category("content", "something that fits, put in"),
    "object_replacement": Category("content", "one thing in place of another"),
    "background": Category("content", "the background exchanged or tidied"),
    "composition": Category("content", "horizon, framing, position of the subject"),
    "weather_and_season": Category("content", "sky, weather, season"),
    "time_of_day": Category("content", "morning, golden hour, dusk, night"),
    "style_transfer": Category("content", "as a painting, an illustration, a film still"),
}


def listed(names: list[str], categories: dict[str, Category]) -> str:
    """Categories as a prompt lists them, one a line.

    Example:
        >>> listed(["noise"], CATEGORIES)
        '- noise (quality): grain and noise, less or more'
    """
    rows = ((name, categories[name]) for name in names)
    return "\n".join(f"- {name} ({row.orientation})" + (f": {row.about}" if row.about else "") for name, row in rows)
