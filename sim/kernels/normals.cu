// Standard normals (n_rows, n_steps, n_paths).
KERNEL void normals(
    unsigned int key0, unsigned int key1, long long first, int antithetic, int n_rows, int n_steps, long long n_paths,
    real *out)
{
    Stream stream = {{key0, key1}, first, antithetic};
    int n_quads = (n_steps + 3) / 4;
    FOR_EACH(place, n_paths * n_quads * n_rows)
    {
        long long path = place % n_paths;  // neighbours in a warp are neighbours in memory
        int quad = int(place / n_paths % n_quads), row = int(place / n_paths / n_quads);
        real z[4];
        four_normals(stream, path, quad, row, z);
        for (int i = 0; i < 4; ++i) {
            int step = 4 * quad + i;
            if (step < n_steps) out[((long long)row * n_steps + step) * n_paths + path] = z[i];
        }
    }
}
