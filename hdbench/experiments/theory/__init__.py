"""Which methods reach the true mean velocity, and what a student of limited capacity loses.

Data      clusters of Gaussian sub-modes on a line, and a background, so that all is known:
          z_t = (1 - t) x + t eps is a mixture at every t
velocity  v(z, t) = E[eps - x | z_t = z] in closed form, see `Exact.velocity`
flow map  dz/dt = v(z, t) from t = 1 to t = 0, G(eps) = z_0, by an adaptive solver of order 8
truth     u(eps, 0, 1) = eps - G(eps), the mean velocity of one step from noise
Students are small networks u_theta(z, r, t), trained by the suites' objectives with v as teacher.
Euler's n steps with v are what a student of n teacher steps can reach at best; one step is v in
place of u.

Structure and detail: 1 - D(student) / D(blurred), D the total variation from the true distribution
on these cells: the two sd around each cluster, or the 1.5 sd around each sub-mode, and the rest.
In the blurred distribution one Gaussian of the same mean and variance replaces all clusters, or
each cluster's sub-modes.  So 1 is the true distribution, and 0 one without this scale.
"""
