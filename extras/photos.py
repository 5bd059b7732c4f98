"""People's own photos: finds the faces, hides what is to be repainted, restores it, and puts it back.

    photo -> eyes of each face -> the network's frame -> hole -> network -> back to the photo -> seam corrected

Frames and matrices: see faces.py.
"""
import os
import struct
import sys

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin
from tqdm import tqdm

from datamanager import (LARGE, DataError, bounding_box, crop_box, decode, find_files, flatten, inside, named_like_image,
                         plain, refuse_tiny, shown, unique_names)
from extras.faces import (TINY, apart, axes, box_matrix, coarseness, corners, detector, find_faces, frame_matrix,
                          harmonic, means, shift, view, warp)
from extras.masks import MASKS, file_mask, mask_files, of_name, share
from tf_process import GRID, RunError, masked, picture, remove, sheet, write_png

TILE = 192             # pixels a side of a picture on the sheet
WRITTEN = 'restored', 'restored_grid.png', 'test', 'test_grid.png', 'training', 'loss.png'  # into a folder of results


# ---------------------------------------------------------------------------------------------------- restoring

def restore(session, network, photos, results):
    """Restore `photos` (see Photos) with the session's model: results/restored/NAME.png, and a sheet.

    On the sheet, for each face: the photo, what the network saw, the hole, the result.
    Raises RunError, at the end, where some photos could not be restored.
    """
    folder = os.path.join(results, 'restored')
    os.makedirs(folder, exist_ok=True)
    done, failed, tiles, grid = 0, 0, [], os.path.join(results, 'restored_grid.png')
    if photos.notice:
        print(photos.notice)
    for photo in tqdm(photos, 'restoring', leave=False, disable=None):
        if isinstance(photo, str):
            failed += 1
            tqdm.write('error: ' + photo, sys.stderr)
            continue
        tqdm.write(photo.summary())
        remove(grid)  # of another command
        path = os.path.join(folder, photo.name + '.png')
        if not photo.frames:
            remove(path)  # of another command
            continue
        done += 1
        tiles += restore_one(session, network, photo, path, GRID - len(tiles))
    if tiles:
        write_png(grid, sheet(tiles))
    print('restored %d of %d photos: %s' % (done, len(photos), folder))
    if failed:
        raise RunError('%d of %d photos could not be restored, for the reasons above' % (failed, len(photos)))


def restore_one(session, network, photo, path, most):
    """Restore a Photo to `path`; the stages of `most` of its frames."""
    pixels = paint(session, network, photo)
    write_png(path, pixels, **photo.carried)
    return [stages(photo, frame, pixels) for frame in photo.frames[:most]]


def paint(session, network, photo):
    """The pixels of `photo`, a Photo, with its hole repainted by the session's model."""
    return put_back(photo, [session.run(network.restored, {network.images: frame.images, network.mask: frame.mask})
                            for frame in photo.frames])


def put_back(photo, restored):
    """The pixels of `photo`, a Photo, with its hole repainted from the network's answers.

    restored: for each of its frames [1,H,W,C] float in [0, 1]. The restoration is brought to the photo's own
    resolution, and corrected so that it meets the photo all along the hole's rim, see `harmonic`: what a grey network
    paints into a colour photo takes its colours from there. Outside the hole every pixel stays what it was. What is
    transparent stays so, unless most of a hole is: that was erased, and becomes opaque.
    """
    colours, pixels, whole = photo.seen.shape[2], photo.pixels.copy(), np.iinfo(photo.pixels.dtype).max
    for frame, fill in zip(photo.frames, restored):
        fill = fill[0]
        if fill.shape[2] > colours:
            fill = fill.mean(2, keepdims=True)
        target, paint, visible = pixels[frame.part], frame.paint, 1 - photo.hole[frame.part]
        opacity = target[:, :, colours:]
        if opacity.size:
            if opacity[paint].mean() < whole / 2:
                opacity[paint] = whole
            paint = paint & (opacity[:, :, 0] > 0)
        top, left = frame.part[0].start, frame.part[1].start
        border = 3 + int(np.ceil(2 / axes(frame.matrix).min()))  # of the restoration: the hole's rim may lie outside
        fill = np.pad(fill, [(border, border), (border, border), (0, 0)], 'edge')
        matrix = shift(border, border) @ np.linalg.inv(frame.matrix) @ shift(left, top)
        # A photo may be huge: the seam is then corrected in blocks, one colour and one strip is painted after another.
        side = coarseness(visible)
        share, coarse = means(visible, side), matrix @ np.diag([side, side, 1])
        back = lambda channel: warp(channel, coarse, share.shape[:2])
        # What is hidden, or not seen by the network, says nothing about the seam.
        unknown, share = (share == 0) | (back(np.ones_like(fill[:, :, :1])) < .5), np.where(share > 0, share, 1)
        for colour in range(colours):
            channel = fill[:, :, [colour % fill.shape[2]]]
            seen = means(photo.seen[frame.part][:, :, [colour]] * visible, side) / share
            seam = Image.fromarray(harmonic(seen / np.float32(255) - back(channel), unknown[:, :, 0])[:, :, 0])
            for part in strips(paint):
                (top, bottom), (left, right) = [(each.start, each.stop) for each in part]
                painted = warp(channel, matrix @ shift(left, top), (bottom - top, right - left))[:, :, 0]
                painted = (painted + np.asarray(seam.resize(painted.shape[::-1], Image.BILINEAR, box=[
                    place / side for place in (left, top, right, bottom)])))[paint[part]]
                if opacity.size:  # the network saw white through it
                    painted = 1 - (1 - painted) * whole / opacity[part][paint[part]][:, 0]
                target[part][paint[part], colour] = np.clip(painted, 0, 1) * whole + .5
    return pixels


def strips(paint):
    """Yield the two slices of what is True in `paint`, [h,w] bool, in pieces that lie in LARGE pixels at most."""
    height = max(LARGE // paint.shape[1], 1)
    for start in range(0, len(paint), height):
        piece = paint[start:start + height, :, None]
        if piece.any():
            top, bottom, left, right = bounding_box(piece)
            yield slice(start + top, start + bottom), slice(left, right)


def stages(photo, frame, pixels):
    """[TILE,4*TILE,3] uint8: the frame in the photo, as the network saw it, its hole, and in the restored pixels."""
    height, width = frame.mask.shape[:2]
    zoom = TILE / max(height, width)
    size = int(round(zoom * height)), int(round(zoom * width))

    def close(array):
        return warp(array, frame.matrix @ np.diag([1 / zoom, 1 / zoom, 1]), size)

    def tile(array):
        image = picture(array).convert('RGBA')
        paper = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image).convert('RGB')
        return np.asarray(ImageOps.pad(paper, (TILE, TILE), color='white'))
    eight = lambda array: (array >> 8).astype(np.uint8) if array.dtype == np.uint16 else array
    saw = masked(frame.images, frame.mask)[0]
    return np.concatenate([tile(part) for part in (
        close(eight(photo.pixels)), saw, frame.mask * np.uint8(255), close(eight(pixels)))], 1)


# ------------------------------------------------------------------------------------------------------- photos

class Frame:
    """What the network sees of a photo, and what of it is painted.

    matrix: from the frame to the photo. part: the two slices of the photo in which its hole lies, with a rim. paint:
    [h,w] bool, the hole there. mask: [H,W,1] uint8, the hole in the frame. images: [1,H,W,C] uint8, what the network
    sees.
    """

    def __init__(self, matrix, part, paint):
        self.matrix, self.part, self.paint, self.mask, self.images = matrix, part, paint, None, None


class Photo:
    """A photo of any size, made ready for a network of `shape` (H, W, C).

    path:  image file. name: of its restoration.
    mask:  'center' or 'lower' of each face; a picture of the photo's aspect, white = hole; or a function of an aligned
           face, [H,W,3] uint8, that returns its hole, [H,W,1] uint8, all zero where it is to be left alone.
    find:  a function as find_faces, or None: the middle of the photo is taken for a face, as where none is found.

    Attributes: pixels [h,w,c] uint8 or uint16, upright, c 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha), and
    carried, see the function; seen [h,w,1 or 3] uint8, the same on white paper; hole [h,w,1] uint8; frames, a Frame for
    each face that has a hole, perhaps one for what lies outside of faces; found, tiny and done, the
    numbers of faces found, too small, and to be restored.
    Raises DataError where photo or mask cannot be used.
    """

    def __init__(self, path, name, mask, shape, find):
        self.path, self.name = path, name

        def read(image):
            refuse_tiny(image, path)
            upright = plain(image)
            pixels = array(upright)
            seen = pixels if upright.mode in ('L', 'RGB') else array(upright, flatten)  # no copy: a photo may be huge
            return pixels, seen, carried(image.info, pixels.shape[2])
        self.pixels, self.seen, self.carried = decode(path, read)
        if self.pixels.dtype != np.uint8:
            self.pixels = self.pixels.clip(0, 65535).astype(np.uint16)
        self.hole = np.zeros_like(self.pixels[:, :, :1], np.uint8)
        eyes = find(self.seen) if find else []
        self.found, eyes = len(eyes), [pair for pair in eyes if apart(pair) >= TINY]
        self.tiny = self.found - len(eyes)
        self.frames, matrices = [], [frame_matrix(pair, *shape[:2]) for pair in eyes]
        self.file = not (callable(mask) or mask in MASKS)
        if self.file:
            self._hide_file(mask, matrices, shape)
        else:
            middle = [] if matrices or callable(mask) else [
                box_matrix(crop_box(self.seen.shape[1::-1], *shape[:2]), *shape[:2])]
            self._hide_frames(mask, matrices + middle, shape)
            self.done = len(self.frames) if eyes else 0
        for frame in self.frames:  # once all that is hidden is known
            frame.mask = (warp(self.hole * np.uint8(255), frame.matrix, shape[:2]) > 127).astype(np.uint8)
            image = picture(view(self.seen, self.hole, frame.matrix, shape[:2]))
            frame.images = np.asarray(image.convert('L' if shape[2] == 1 else 'RGB')).reshape((1,) + tuple(shape))
            if frame.mask[warp(np.full_like(self.hole, 255), frame.matrix, shape[:2]) > 127].all():  # what is in the photo
                raise DataError('%s: the mask hides all that the network sees: leave what is known in black' %
                                shown(mask if self.file else path))

    def _hide_frames(self, mask, matrices, shape):
        """A frame for each matrix, with a hole of its own."""
        for matrix in matrices:
            if callable(mask):
                fine = mask(np.array(np.broadcast_to(
                    view(self.seen, self.hole * 0, matrix, shape[:2]), shape[:2] + (3,))))
            else:  # drawn at the photo's own resolution
                fine = MASKS[mask](*[int(round(side * axis)) for side, axis in zip(shape, axes(matrix)[::-1])])
            part, paint = self._project(fine, matrix, shape)
            if paint.any():  # a hole in the photo
                self.frames.append(Frame(matrix, part, paint))
        for frame in self.frames:
            self.hole[frame.part][frame.paint] = 1

    def _hide_file(self, mask, matrices, shape):
        """A frame for each matrix into which the hole reaches, and one around what lies outside all of them."""
        if os.path.samefile(mask, self.path):
            raise DataError('%s: the mask is the photo itself: give one of its own, white = hole' % shown(mask))
        self.hole = file_mask(mask, *self.seen.shape[:2])
        left, whole = self.hole[:, :, 0] > 0, np.ones(shape[:2] + (1,), np.uint8)
        for matrix in matrices:
            part, inside = self._project(whole, matrix, shape)
            paint = left[part] & inside
            left[part] &= ~inside
            if paint.any():
                self.frames.append(Frame(matrix, part, paint))
        self.done = len(self.frames)
        if left.any():
            part = _rim(bounding_box(left[:, :, None]))
            box = _around(bounding_box(left[:, :, None]), crop_box(left.shape[::-1], *shape[:2]), left.shape[::-1])
            self.frames.append(Frame(box_matrix(box, *shape[:2]), part, left[part]))

    def _project(self, mask, matrix, shape):
        """(two slices, [h,w] bool): where `mask`, [*,*,1] uint8, of a frame with this matrix lies in the photo."""
        points = matrix @ corners(*shape[:2])
        low, high = [np.clip(side, 0, self.seen.shape[1::-1]).astype(int)
                     for side in (np.floor(points.min(1))[:2] - 1, np.ceil(points.max(1))[:2] + 1)]
        size = tuple(int(side) for side in np.maximum(high - low, 0)[::-1])
        fine = np.diag([mask.shape[1] / shape[1], mask.shape[0] / shape[0], 1])
        paint = warp(mask * np.uint8(255), fine @ np.linalg.inv(matrix) @ shift(*low), size)[:, :, 0] > 127
        part = _rim(bounding_box(paint[:, :, None])) if paint.any() else np.s_[0:0, 0:0]
        return tuple(slice(side.start + start, side.stop + start) for side, start in zip(part, low[::-1])), paint[part]

    def summary(self):
        """A line on what was found in the photo and what is done."""
        line = '%s: %s face%s found' % (shown(self.path), self.found or 'no', 's' * (self.found > 1))
        if self.tiny:
            line += ', %d of them too small (the eyes must be %d pixels apart)' % (self.tiny, TINY)
        if self.done or self.found > self.tiny:
            line += ', %d restored' % self.done
        if len(self.frames) > self.done:
            line += ', the hole outside of faces is restored' if self.file else ', the middle of the photo is restored'
        if self.frames:
            line += '; the hole takes %s' % share(self.hole.mean())
        return line + (', no face mask: left alone' if not self.frames and self.found > self.tiny else '')


def array(image, change=lambda strip: strip):
    """[h,w,c] of a Pillow image, changed by a function of such images: strip by strip, since a photo may be huge."""
    pixels, height = None, max(LARGE // image.width, 1)
    for top in range(0, image.height, height):
        strip = image.crop((0, top, image.width, min(top + height, image.height)))
        strip = np.asarray(change(strip)).reshape(strip.height, strip.width, -1)
        if pixels is None:
            pixels = np.empty((image.height,) + strip.shape[1:], strip.dtype)
        pixels[top:top + height] = strip
    return pixels


def carried(info, channels):
    """What a photo says of its colours and its resolution, as options of Pillow's PNG writer.

    info: of its Pillow image. channels: of its pixels. A profile of other colours, as of CMYK, is left out.
    """
    options, chunks = {}, PngImagePlugin.PngInfo()
    profile, dpi = info.get('icc_profile') or b'', info.get('dpi', (0, 0))
    if profile[16:20] == (b'GRAY' if channels < 3 else b'RGB '):
        options['icc_profile'] = profile
    if 0 < min(dpi) <= max(dpi) < 10 ** 6:
        options['dpi'] = dpi
    for kind, name, form, unit in ((b'gAMA', 'gamma', '>I', 10 ** 5), (b'cHRM', 'chromaticity', '>8I', 10 ** 5),
                                   (b'sRGB', 'srgb', '>B', 1)):
        if name in info:
            chunks.add(kind, struct.pack(form, *[int(round(value * unit)) for value in np.ravel(info[name])]))
    return dict(options, pnginfo=chunks)


class Photos:
    """The photos of files and folders, one after another, each with its mask.

    paths: image files and folders of them, searched recursively. mask: as for Photo, or a folder of masks with the
    photos' names; where photos lie in it, too, its PNGs are the masks. shape: the network's (H, W, C). results: the
    folder whose pictures, see WRITTEN, are no photos.
    Iterating yields a Photo each, or the sentence on why there is none.

    Attribute notice: the sentence on why no faces can be found, or None. len() is the number of photos. Raises
    DataError where there are none, or the mask is not of these kinds, or finds face masks and no faces can be found.
    """

    def __init__(self, paths, mask, shape, results):
        if not (callable(mask) or mask in MASKS or os.path.exists(mask)):
            raise DataError('%s: no mask to restore with: give --mask center, lower, an image (white = repaint), '
                            'or a folder of them with the photos\' names' % shown(mask))
        self._mask, self._shape, self._files, self.notice, self._find = mask, shape, [], None, find_faces
        self._masks = None if callable(mask) or mask in MASKS or not os.path.isdir(mask) else mask_files(
            mask, pngs=any(inside(path, mask) for path in paths))
        drawn = self._masks.values() if self._masks is not None else [mask] * (not callable(mask) and mask not in MASKS)
        drawn, masks = {os.path.realpath(path) for path in drawn}, 0  # no photos
        written = lambda path: any(inside(path, os.path.join(results, name)) for name in WRITTEN)
        for path in paths:
            if os.path.isdir(path):
                for name in find_files(path):  # a file that is not named like an image is worth no sentence if it is none
                    file = os.path.join(path, name)
                    if os.path.realpath(file) in drawn:
                        masks += 1
                    elif not written(file) and (named_like_image(name) or _is_image(file)):
                        self._files.append((path, name))
            elif written(path):
                raise DataError('%s: lies where results are written, and may be replaced: name another --results' % (
                    shown(path)))
            else:
                self._files.append((os.path.dirname(path), os.path.basename(path)))
        if not self._files:
            raise DataError('%s: %s' % (shown(' '.join(paths)), (
                'each image there is one of the masks: give --mask another folder, with the photos\' names' if masks else
                'no image there: give photos or folders of them')))
        try:
            detector()
        except DataError as error:
            if callable(mask):
                raise
            self.notice, self._find = '%s; the middle of each photo is restored' % error, None

    def __len__(self):
        return len(self._files)

    def __iter__(self):
        for (folder, relative), name in zip(self._files, unique_names([name for _, name in self._files])):
            try:
                photo = Photo(os.path.join(folder, relative), name, self._mask_of(relative), self._shape, self._find)
                if not photo.found and callable(self._mask):
                    raise DataError('no face found: give a photo in which both eyes are seen')
                yield photo
            except DataError as error:  # about the photo, or about its mask
                sentence, path = str(error), shown(os.path.join(folder, relative))
                yield sentence if sentence.startswith(path) else '%s: %s' % (path, sentence)

    def _mask_of(self, relative):
        mask = self._mask if self._masks is None else of_name(self._masks, relative)
        if mask is None:
            raise DataError('%s: no mask of that name in %s: add %s.png' % (
                shown(relative), shown(self._mask), shown(os.path.splitext(os.path.basename(relative))[0])))
        return mask


def _is_image(path):
    """Whether a decoder opens the file."""
    try:
        return decode(path, lambda image: True)
    except DataError:
        return False


def _around(bounds, box, size):
    """The box, (left, top, right, bottom), moved and where it must be widened so that it holds the bounds of a hole."""
    top, bottom, left, right = bounds
    sides = []
    for start, stop, first, last, end in ((box[0], box[2], left, right, size[0]),
                                          (box[1], box[3], top, bottom, size[1])):
        length = max(stop - start, last - first)
        start = np.clip(np.clip(start, last - length, first), 0, end - length)
        sides.append((float(start), float(start + length)))
    return sides[0][0], sides[1][0], sides[0][1], sides[1][1]


def _rim(bounds):
    """The two slices of (top, bottom, left, right) and the pixels beside them."""
    top, bottom, left, right = bounds
    return slice(max(top - 1, 0), bottom + 1), slice(max(left - 1, 0), right + 1)
