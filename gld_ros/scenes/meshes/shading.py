"""Colours of ray hits in linear light: one compiled loop over all samples of an image.

Textures are filtered over the footprint of a sample (trilinear between halvings), surfaces are lit
from both sides by Lambert's law: point lights that fade with distance, and ambient light that is
stronger from above.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gld_ros.scenes.meshes.load import NEEDED, MeshError, linear_from_srgb
from gld_ros.scenes.meshes.surfaces import FloatArray

try:
    from numba import njit
except ImportError as error:
    raise MeshError(NEEDED) from error

LINEAR_OF_BYTE = linear_from_srgb(np.arange(256) / 255).astype(np.float32)
SHADOW_BIAS_M = 2e-3
_SHADE_OF_UNDERSIDES = 0.45  # ambient light on what faces down, relative to what faces up
_GRAZING = 0.1


@njit(cache=True, nogil=True, fastmath=True)
def shade(
    triangle: NDArray[np.int32],
    bary_u: FloatArray,
    bary_v: FloatArray,
    along: FloatArray,
    direction: FloatArray,
    normals: FloatArray,
    corners: FloatArray,
    uv: FloatArray,
    colours: NDArray[np.uint8],
    material: NDArray[np.int32],
    tint: FloatArray,
    texture: NDArray[np.int32],
    texels: NDArray[np.uint8],
    first: NDArray[np.int64],
    width: NDArray[np.int32],
    height: NDArray[np.int32],
    texels_per_m: FloatArray,
    lights: FloatArray,
    lit: NDArray[np.bool_],
    ambient: FloatArray,
    sky: FloatArray,
    sample_angle: float,
    samples: int,
    byte_to_linear: FloatArray,
) -> Any:
    """Mean colour (p, 3) of `samples` consecutive rays for every pixel, linear.

    direction: (p * samples, 3) of length 1 along the optical axis; lit: (lights, rays), whether a
    light reaches the hit, or (0, 0) for no shadows; sample_angle: size of a sample at 1 m depth.
    """
    pixels = len(triangle) // samples
    out = np.zeros((pixels, 3), np.float32)
    shadows = lit.shape[0] > 0
    levels = first.shape[1]
    for ray in range(pixels * samples):
        pixel = ray // samples
        face = triangle[ray]
        if face < 0:
            for c in range(3):
                out[pixel, c] += sky[c]
            continue
        b, g = bary_u[ray], bary_v[ray]
        a = np.float32(1.0) - b - g
        dx, dy, dz = direction[ray, 0], direction[ray, 1], direction[ray, 2]
        nx = a * normals[face, 0, 0] + b * normals[face, 1, 0] + g * normals[face, 2, 0]
        ny = a * normals[face, 0, 1] + b * normals[face, 1, 1] + g * normals[face, 2, 1]
        nz = a * normals[face, 0, 2] + b * normals[face, 1, 2] + g * normals[face, 2, 2]
        px = a * corners[face, 0, 0] + b * corners[face, 1, 0] + g * corners[face, 2, 0]
        py = a * corners[face, 0, 1] + b * corners[face, 1, 1] + g * corners[face, 2, 1]
        pz = a * corners[face, 0, 2] + b * corners[face, 1, 2] + g * corners[face, 2, 2]
        scale = np.sqrt(nx * nx + ny * ny + nz * nz) + np.float32(1e-12)
        facing = (nx * dx + ny * dy + nz * dz) / scale
        if facing > 0:
            scale = -scale
        nx, ny, nz = nx / scale, ny / scale, nz / scale
        slant = abs(facing) / np.sqrt(dx * dx + dy * dy + dz * dz)

        light_r = light_g = light_b = np.float32(0.0)
        for k in range(lights.shape[0]):
            if shadows and not lit[k, ray]:
                continue
            lx, ly, lz = lights[k, 0] - px, lights[k, 1] - py, lights[k, 2] - pz
            square = lx * lx + ly * ly + lz * lz + np.float32(1e-6)
            cosine = (nx * lx + ny * ly + nz * lz) / np.sqrt(square)
            if cosine > 0:
                share = cosine / (np.float32(1.0) + square / (lights[k, 6] * lights[k, 6]))
                light_r += share * lights[k, 3]
                light_g += share * lights[k, 4]
                light_b += share * lights[k, 5]
        half = np.float32(0.5) * (np.float32(1.0) - np.float32(_SHADE_OF_UNDERSIDES))
        above = np.float32(_SHADE_OF_UNDERSIDES) + half * (np.float32(1.0) + nz)
        light_r += above * ambient[0]
        light_g += above * ambient[1]
        light_b += above * ambient[2]

        red = green = blue = np.float32(1.0)
        of = material[face]
        image = texture[of]
        if image >= 0:
            s = a * uv[face, 0, 0] + b * uv[face, 1, 0] + g * uv[face, 2, 0]
            t = a * uv[face, 0, 1] + b * uv[face, 1, 1] + g * uv[face, 2, 1]
            s, t = s - np.floor(s), np.float32(1.0) - (t - np.floor(t))
            # Footprint in texels: the geometric mean of its width and its stretched length.
            footprint = along[ray] * sample_angle * texels_per_m[face]
            footprint /= np.sqrt(max(slant, np.float32(_GRAZING)))
            level = min(max(np.log2(footprint + np.float32(1e-9)), 0.0), levels - 1.001)
            low = int(level)
            red = green = blue = np.float32(0.0)
            for step in range(2):
                part = level - low if step else 1.0 - (level - low)
                if part <= 0.0:
                    continue
                w, h = width[image, low + step], height[image, low + step]
                x, y = s * w - 0.5, t * h - 0.5
                x0, y0 = int(np.floor(x)), int(np.floor(y))
                fx, fy = x - x0, y - y0
                for corner in range(4):
                    right, down = corner & 1, corner >> 1
                    weight = (fx if right else 1.0 - fx) * (fy if down else 1.0 - fy) * part
                    place = first[image, low + step] + ((y0 + down) % h) * w + (x0 + right) % w
                    red += weight * byte_to_linear[texels[place, 0]]
                    green += weight * byte_to_linear[texels[place, 1]]
                    blue += weight * byte_to_linear[texels[place, 2]]
        for c in range(3):
            shade_of = (
                a * byte_to_linear[colours[face, 0, c]]
                + b * byte_to_linear[colours[face, 1, c]]
                + g * byte_to_linear[colours[face, 2, c]]
            )
            albedo = red if c == 0 else (green if c == 1 else blue)
            light = light_r if c == 0 else (light_g if c == 1 else light_b)
            out[pixel, c] += albedo * shade_of * tint[of, c] * light
    return out / np.float32(samples)


@njit(cache=True, nogil=True)
def shadow_rays(
    triangle: NDArray[np.int32],
    along: FloatArray,
    origin: FloatArray,
    direction: FloatArray,
    light: FloatArray,
) -> Any:
    """Start points (n, 3), moved a little towards the camera, and the way to the light (n, 3).

    origin (3,), direction (n, 3) are the camera's rays. Rays that hit nothing get no way.
    """
    count = len(triangle)
    start, way = np.zeros((count, 3), np.float32), np.zeros((count, 3), np.float32)
    for ray in range(count):
        for c in range(3):
            reach = max(along[ray] - np.float32(SHADOW_BIAS_M), np.float32(0.0))
            if triangle[ray] >= 0:
                start[ray, c] = origin[c] + reach * direction[ray, c]
                way[ray, c] = light[c] - start[ray, c]
    return start, way
